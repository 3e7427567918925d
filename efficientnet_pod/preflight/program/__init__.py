"""The text of compiled programs: cycles by layer, collectives, memory."""
