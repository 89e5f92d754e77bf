"""The same functions at speed; each module is imported by its plain twin only."""
