"""Engines that run shards on other machines; one loop drives whichever it is, and asks it for little."""
