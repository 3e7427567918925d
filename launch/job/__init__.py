"""One job: its machines, its code, its start-up script, and the memory of submitted jobs."""
