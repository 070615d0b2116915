"""HistGen: whole-slide image in, draft pathology report with evidence out.

Nothing heavy is imported here: `import histgen_lib` stays under 100 ms.
"""

__version__ = "0.1.0"
