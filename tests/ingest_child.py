"""Ingests a tape in small commits until done or killed; says when it begins. Usage: TAPE STORE BATCH_ROWS."""

import sys

from flowtape.pipeline.ingestor import Engine
from flowtape.readers import Options, open_tapes
from flowtape.storage import open_store

tape, store, rows = sys.argv[1:]
kept = open_store(store)
engine = Engine(kept)
print("begun", flush=True)
for one in open_tapes([tape], options=Options(batch_rows=int(rows))):
    engine.ingest(one)
kept.close()
