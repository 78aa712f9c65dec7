"""What the commands do, from Python; the rows are in memory."""

import dongu

rows = [
    {"text": text, "label": label}
    for number in range(30)
    for text, label in [(f"I would buy {number} more", "positive"), (f"It broke after {number} days", "negative")]
]
result = dongu.train(rows, model="minilm", epochs=1, out="runs/api")
print(result.path, result.metrics["accuracy"], result.results["validation"]["accuracy"]["low"])

classifier = dongu.load(result.path)
for answer in classifier.predict(["I would buy it again", "It broke after a day"]):
    print(answer["prediction"], answer["probabilities"])
