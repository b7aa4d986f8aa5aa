"""Tuning: searches settings of a model on validation patients, with the same budget for every model.

    search space of the model -> study (Optuna) -> trials: trained, scored on validation, pruned -> best ones over seeds
    -> settings as a file for `bench run --config`, and a report

OUT/tuning/<model>-<hash>/  study.json (what is searched, on what), journal.log (all trials), confirmed.json,
                            best.yaml, report.md
OUT/tuning/validated/       results of trainings on validation, by job; shared by studies
"""
