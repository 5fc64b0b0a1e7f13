"""From prints to the store and the cache: batches, commits, feeds, backfill."""
