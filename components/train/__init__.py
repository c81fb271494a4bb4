"""Train: scikit-learn estimators behind preprocessing that the contract dictates."""
