"""Databento's publishers: the venue of a record's `publisher_id`, by dataset.

Names and numbers are those of Databento's list of publishers. A venue is part of a print's identity, so a name must
never change, and a new publisher must be added here before its first print.
"""

from __future__ import annotations

OPTIONS = "OPRA.PILLAR"
STOCKS = {
    "XNAS.ITCH": {2: "XNAS"},
    "XBOS.ITCH": {3: "XBOS"},
    "XPSX.ITCH": {4: "XPSX"},
    "BATS.PITCH": {5: "BATS"},
    "BATY.PITCH": {6: "BATY"},
    "EDGA.PITCH": {7: "EDGA"},
    "EDGX.PITCH": {8: "EDGX"},
    "XNYS.PILLAR": {9: "XNYS"},
    "XCIS.PILLAR": {10: "XCIS"},
    "XASE.PILLAR": {11: "XASE"},
    "XCHI.PILLAR": {12: "XCHI"},
    "ARCX.PILLAR": {43: "ARCX"},
    "MEMX.MEMOIR": {15: "MEMX"},
    "OCEA.MEMOIR": {107: "OCEA"},
    "EPRL.DOM": {16: "EPRL"},
    "IEXG.TOPS": {38: "IEXG"},
    "XNAS.NLS": {17: "FINN", 18: "FINC", 47: "XNAS", 86: "XBOS", 87: "XPSX"},
    "XNAS.QBBO": {46: "XNAS"},
    "XNAS.BASIC": {81: "XNAS", 82: "FINN", 83: "FINC", 88: "XBOS", 89: "XPSX", 93: "EQUS"},
    "XNYS.BBO": {44: "XNYS"},
    "XNYS.TRADES": {19: "FINY", 45: "XNYS", 96: "EQUS"},
    "XNYS.TRADESBBO": {92: "XNYS"},
    "XCIS.BBO": {13: "XCIS"},
    "XCIS.TRADES": {14: "XCIS"},
    "XCIS.TRADESBBO": {91: "XCIS"},
    "DBEQ.BASIC": {39: "XCHI", 40: "XCIS", 41: "IEXG", 42: "EPRL", 59: "DBEQ"},
    "EQUS.MINI": {95: "EQUS"},
    "EQUS.PLUS": {
        48: "XCHI", 49: "XCIS", 50: "IEXG", 51: "EPRL", 52: "XNAS", 53: "XNYS", 54: "FINN", 55: "FINY",
        56: "FINC", 60: "EQUS",
    },
    "EQUS.ALL": {
        62: "XCHI", 63: "XCIS", 64: "IEXG", 65: "EPRL", 66: "XNAS", 67: "XNYS", 68: "FINN", 69: "FINY",
        70: "FINC", 71: "BATS", 72: "BATY", 73: "EDGA", 74: "EDGX", 75: "XBOS", 76: "XPSX", 77: "MEMX",
        78: "XASE", 79: "ARCX", 80: "LTSE", 94: "EQUS",
    },
    "EQUS.SIP": {
        111: "XASE", 112: "XBOS", 113: "XCIS", 114: "TXSE", 115: "24EQ", 116: "EPRL", 117: "XISX",
        118: "EDGA", 119: "EDGX", 120: "LTSE", 121: "XCHI", 122: "XNYS", 123: "ARCX", 124: "XNAS",
        125: "MEMX", 126: "IEXG", 127: "XPSX", 128: "BATY", 129: "BATS", 130: "FINN", 131: "FINY",
        132: "FINC", 133: "XADF", 134: "CTA", 135: "UTP",
    },
}  # fmt: skip
"""The datasets of US equities. Other datasets are refused, even if their symbols look like stocks, as a future's does
(`ESH5`)."""
VENUES = {
    OPTIONS: {
        20: "AMXO", 21: "XBOX", 22: "XCBO", 23: "EMLD", 24: "EDGO", 25: "GMNI", 26: "XISX", 27: "MCRY",
        28: "XMIO", 29: "ARCO", 30: "OPRA", 31: "MPRL", 32: "XNDQ", 33: "XBXO", 34: "C2OX", 35: "XPHL",
        36: "BATO", 37: "MXOP", 61: "SPHR", 108: "MXTO", 109: "IEXO",
    },
    **STOCKS,
}  # fmt: skip
"""The venue of each publisher, by dataset. A publisher that is not listed is named by its number."""
NBBO = {OPTIONS: (30,), "EQUS.SIP": (134, 135)}
"""The publishers of the NBBO, in datasets whose `mbp-1` holds the NBBO beside the quotes of venues."""
AGGREGATED = ("OPRA", "CTA", "UTP", "EQUS", "DBEQ")
"""Venues that combine all venues of a dataset. Their quote is the best of all."""
