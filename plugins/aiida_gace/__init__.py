"""AiiDA plug-ins: data sets and potentials as nodes, the platform's commands as calculation jobs."""
