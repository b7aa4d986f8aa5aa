"""Scoring of predictions; knows neither models nor training."""
