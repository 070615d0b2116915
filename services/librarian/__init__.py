"""The librarian: report.drafted, report.signed, case.withdrawn → the case index. Nobody else writes to it."""
