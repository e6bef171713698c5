"""The top floor: AiiDA work chains and the campaign they carry out."""
