"""What MLflow runs to make a served model; it stands in the model as code, so that nothing is pickled."""

import mlflow.models

from medtransfer.registry.serve import Served

mlflow.models.set_model(Served())
