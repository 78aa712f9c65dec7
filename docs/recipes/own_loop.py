"""Every step in your hands."""

import dongu

loop = dongu.Loop("reviews.csv", model="minilm", epochs=1)
for step in loop:
    if step.number % 5 == 0:
        print(step.number, step.loss, loop.evaluate()["accuracy"])

loop.model.save_pretrained("my-model")
loop.tokenizer.save_pretrained("my-model")
