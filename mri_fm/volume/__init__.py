"""One volume: read → check → orient → quantise → foreground. Shared by the corpus build and by inference; no torch here."""
