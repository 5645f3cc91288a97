"""Common corruptions of images (Hendrycks & Dietterich 2019): which there are, drawn ones and published ones."""
