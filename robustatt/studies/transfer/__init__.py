"""How well the features of a network serve on data it was never trained on: a linear SVM on fixed features.

``transfer(TransferRequest(...))`` measures; ``write(result, folder)`` writes ``transfer.json``, ``predictions.parquet``,
``transfer.md`` and a bar figure; ``read(folder)`` reads the result back.
"""
