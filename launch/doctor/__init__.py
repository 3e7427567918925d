"""Checks of a host before it joins a run."""
