"""A search for learning rate and batch size that gives up on trials that fall behind."""

import sys

import optuna

import dongu

if __name__ == "__main__":
    data, model = sys.argv[1:]

    def objective(trial):
        loop = dongu.Loop(
            data,
            model=model,
            learning_rate=trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True),
            batch_size=trial.suggest_categorical("batch_size", [8, 16]),
            epochs=2,
        )
        for step in loop:
            if step.number % loop.steps_per_epoch == 0:
                accuracy = loop.evaluate()["accuracy"]
                trial.report(accuracy, step.number // loop.steps_per_epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned
        return accuracy

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=1))
    study.optimize(objective, n_trials=4)
    print(f"best: {study.best_value:.3f} with {study.best_params}")
