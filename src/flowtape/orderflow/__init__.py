"""Order flow: as-of quote join, duplicates and cancels, trade classification, minute bars, signals."""
