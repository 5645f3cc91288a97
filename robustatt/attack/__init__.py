"""The attacks: recipes (data), the algorithms that carry them out, and norms.

`recipe` and `recipe_files` are free of torch; `builder.build` makes an attack of a recipe.
"""
