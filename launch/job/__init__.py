"""What runs and where: one job, its code, its start script and its memory."""
