"""What a run leaves on disk or in a bucket: one owner writes each file whole and reads it back."""
