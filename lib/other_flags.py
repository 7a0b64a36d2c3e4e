"""Flags that other tools have taught people, and what they are called here."""

NAMES = {
    "learning-rate": "--lr",
    "batch-size": "--batch (rows per optimizer step, over all devices)",
    "train-batch-size": "--batch (rows per optimizer step, over all devices)",
    "per-device-train-batch-size": "--batch (rows per optimizer step, over all devices)",
    "global-batch-size": "--batch",
    "micro-batch-size": "--token-budget (tokens of a micro-batch; --batch stays what it is)",
    "gradient-accumulation-steps": "--batch: it is the batch of a whole step, cut to fit by itself",
    "num-train-epochs": "--epochs",
    "num-epochs": "--epochs",
    "output-dir": "--runs-dir (each run makes a folder of its own there)",
    "run-name": "--name",
    "model-name-or-path": "--model",
    "model-name": "--model",
    "base-model": "--model",
    "dataset": "--data",
    "dataset-name": "--data",
    "train-file": "--data (a file, or a folder with train, validation and test)",
    "max-seq-length": "--max-length",
    "max-seq-len": "--max-length",
    "block-size": "--max-length",
    "lora-r": "--lora-rank",
    "lora-target-modules": "--lora-targets",
    "target-modules": "--lora-targets",
    "load-in-4bit": "--quantize nf4",
    "load-in-8bit": "--quantize int8",
    "fp16": "--precision bf16 or fp32 (auto takes what the device is fast at)",
    "bf16": "--precision bf16",
    "max-grad-norm": "--clip",
    "gradient-clipping": "--clip",
    "warmup-ratio": "--warmup",
    "lr-scheduler-type": "--schedule",
    "eval-steps": "--eval-every",
    "save-steps": "--save-every",
    "save-total-limit": "--keep",
    "logging-steps": "--log-every",
    "report-to": "--wandb online",
    "resume-from-checkpoint": "--resume (the same command goes on by itself)",
    "num-gpus": "--devices",
    "num-processes": "--devices",
    "nproc-per-node": "--devices",
}


def refuse(argv: list[str]) -> None:
    """Raises ValueError that says what each of them is called here."""
    asked = dict.fromkeys(word.partition("=")[0] for word in argv if word.startswith("--"))
    known = {flag: NAMES.get(flag[2:].replace("_", "-")) for flag in asked}
    lines = [f"{flag}: here it is {ours}" for flag, ours in known.items() if ours]
    if lines:
        raise ValueError("\n".join(lines))
