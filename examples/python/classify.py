"""Logistic regression of scikit-learn on features of dinov2, trained on one file and scored on another.

    dinov2 embed photos/train --model starter -o train.parquet
    dinov2 embed photos/val --model starter -o val.parquet
    python examples/python/classify.py train.parquet val.parquet
"""
import sys

from read_vectors import read_vectors
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

_, train, train_labels = read_vectors(sys.argv[1])
_, val, val_labels = read_vectors(sys.argv[2])
model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
model.fit(train, train_labels)
print(f"top-1 {100 * model.score(val, val_labels):.1f} % of {len(val_labels)} images")
