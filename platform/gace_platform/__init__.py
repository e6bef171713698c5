"""The organs of the loop, without AiiDA: cluster, committee, exploration, labelling, registry, report."""
