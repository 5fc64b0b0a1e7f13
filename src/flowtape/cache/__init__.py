"""The cache: minute bars in memory."""
