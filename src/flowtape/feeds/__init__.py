"""Live feeds: sources that deliver prints as they happen. Each source has one module."""
