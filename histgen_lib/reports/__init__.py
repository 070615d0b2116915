"""The report record and its renderings: JSON, plain text, one self-contained HTML page, and pictures.

`reports.record` is the record; `reports.renderers` is the table of the files made from it.
"""
