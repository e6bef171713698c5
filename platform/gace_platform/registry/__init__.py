"""Model registry on MLflow: runs nested by generation and member, versions, the alias ``champion``."""
