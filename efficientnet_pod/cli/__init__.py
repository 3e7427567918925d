"""One thin file a command: flags in, one call, words out."""
