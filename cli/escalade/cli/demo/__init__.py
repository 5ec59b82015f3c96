"""`escalade demo`: train three models, start seven processes, stream digits through them, say what it cost.

Its parts, in the order of a run:

- `command`: the whole run from top to bottom
- `data`, `train`, `export`: the digits, three models, their ONNX files
- `calibrate`: one temperature a tier, one threshold at each tier that can escalate
- `layout`, `fleet`, `interrupts`: one YAML a process; starting and stopping them; Ctrl-C
- `run`, `metrics`: stream the test digits; read the bytes that went up from the processes' own counters
- `report`, `picture`: the table and `summary.json`; the picture
"""
