"""Ingests a tape in small commits, and seals its days again and again meanwhile, until done or killed.

Says when it begins. Usage: TAPE STORE BATCH_ROWS.
"""

import sys
import threading

from flowtape.pipeline.ingestor import Ingestor
from flowtape.readers import Options, open_tapes
from flowtape.storage import open_store

tape, store, rows = sys.argv[1:]
kept = open_store(store)
ingestor = Ingestor(kept)
done = threading.Event()


def seal() -> None:
    while not done.is_set():
        for day in kept.unsealed():
            kept.seal(day)


sealing = threading.Thread(target=seal)
sealing.start()
print("begun", flush=True)
try:
    for one in open_tapes([tape], options=Options(batch_rows=int(rows))):
        ingestor.ingest(one)
finally:
    done.set()
    sealing.join()
kept.close()
