"""Writes rows as CSV, TSV and JSON into the working folder, reads them back, and prints them as JSON."""

import csv, json, random, sys
random.seed(7)
pieces = ['"', '""', ',', ';', '\n', '\r\n', ' ', 'a', 'é', '🐟', '\\', '\t', "'", '']
text = lambda: ''.join(random.choice(pieces) for _ in range(random.randrange(9)))
rows = [{'a': text(), 'b c': text(), 'd"e': text()} for _ in range(300)]
for name, options in [('usual.csv', {}), ('all.csv', {'quoting': csv.QUOTE_ALL, 'lineterminator': '\n'}), ('tabs.tsv', {'delimiter': '\t'})]:
    with open(name, 'w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, rows[0], **options)
        writer.writeheader()
        writer.writerows(rows)
    with open(name, newline='', encoding='utf-8') as file:
        found = list(csv.DictReader(file, delimiter=options.get('delimiter', ',')))
    assert found == rows
for name, indent in [('compact.json', None), ('pretty.json', 3)]:
    with open(name, 'w') as file:
        json.dump(rows, file, indent=indent)
json.dump(rows, sys.stdout)
