"""From laptop to pod: submits, follows, stops and rehearses a run on engines that exist."""
