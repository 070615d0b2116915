"""The report record and its renderings: JSON, plain text, and one self-contained HTML page.

Import from the modules: `reports.record`, `reports.render_json`, `reports.render_text`,
`reports.render_html`.
"""
