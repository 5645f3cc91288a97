"""Where models look against where the object is: weakly supervised segmentation, clean and under attack.

``segment(SegmentRequest(...))`` measures; ``write(result, folder)`` writes ``segment.json``, ``images.parquet``,
``segment.md`` and figures. Nothing here is trained on masks: a mask only judges, and a fifth of them, which is then
not reported on, chooses one threshold a method.
"""
