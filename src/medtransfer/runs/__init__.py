"""`data/runs`: which run is which, and the verbs that do them: finetune, pretrain, tune, benchmark."""
