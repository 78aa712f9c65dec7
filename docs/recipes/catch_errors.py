"""Each error says what, where and what to do, also to a program."""

import dongu

try:
    dongu.train("reviews.csv", model="minilm", epochs=0, batch_size=0)
except dongu.DonguError as error:
    print(error.exit_code, error.what)
