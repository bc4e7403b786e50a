"""Ranks networks by what they are worth without training: `rank`."""
