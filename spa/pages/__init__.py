"""Results as a page: one self-contained HTML file that opens offline, a picture, or a table in a notebook.

Drawn from the documents of `spa.document` alone, those that --json prints. Charts are Vega-Lite.
"""
