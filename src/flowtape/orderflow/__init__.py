"""As-of quote join, duplicates and cancels, trade classification, minute bars, signals."""
