/* Replays a layer's golden vectors: every code, sum and byte.

     cc -std=c99 -Wall -Werror -Iinclude -DLAYER=HEADER -o check check_layer.c
     ./check INPUT.bin CODES.bin SUMS.bin OUTPUT.bin [RESIDUAL.bin]

   HEADER is the name, without .h, of a file in include/. Prints "0 mismatches" or the first one,
   with an exit status of 1. */
#include <stdio.h>
#include <stdlib.h>

#define QUOTED(text) #text
#define HEADER_OF(layer) QUOTED(layer.h)
#include HEADER_OF(LAYER)

typedef struct {
  uint8_t *bytes;
  long size;
} contents;

static void *room(size_t size) {
  void *memory = malloc(size ? size : 1);
  if (memory == NULL) {
    fprintf(stderr, "out of memory\n");
    exit(2);
  }
  return memory;
}

static contents read_file(const char *path) {
  contents file = {NULL, 0};
  FILE *stream = fopen(path, "rb");
  if (stream == NULL || fseek(stream, 0, SEEK_END) || (file.size = ftell(stream)) < 0) {
    fprintf(stderr, "%s cannot be read\n", path);
    exit(2);
  }
  rewind(stream);
  file.bytes = room((size_t)file.size);
  if (fread(file.bytes, 1, (size_t)file.size, stream) != (size_t)file.size) {
    fprintf(stderr, "%s cannot be read\n", path);
    exit(2);
  }
  fclose(stream);
  return file;
}

static int32_t little_endian(const uint8_t *bytes) {
  uint32_t value = bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
                   (uint32_t)bytes[3] << 24;
  return (int32_t)value;
}

static void compare(const char *what, long row, int at, long ours, long golden) {
  if (ours == golden) return;
  printf("%s: row %ld, %s %d is %ld instead of %ld\n", LAYER.name, row, what, at, ours, golden);
  exit(1);
}

int main(int argc, char **argv) {
  if (argc < 5) {
    fprintf(stderr, "check INPUT CODES SUMS OUTPUT [RESIDUAL]\n");
    return 2;
  }
  const halut_layer *layer = &LAYER;
  contents input = read_file(argv[1]), codes = read_file(argv[2]), sums = read_file(argv[3]);
  contents output = read_file(argv[4]), residual = {NULL, 0};
  if (argc > 5) residual = read_file(argv[5]);

  int height = halut_out_height(layer), width = halut_out_width(layer);
  int books = layer->groups * layer->codebooks, pixels = height * width;
  long map = (long)layer->channels * layer->height * layer->width;
  long rows = input.size / map * pixels;
  if (codes.size != rows * books || sums.size != 4 * rows * layer->outputs ||
      output.size != rows * layer->outputs || (argc > 5 && residual.size != output.size)) {
    fprintf(stderr, "%s: the vectors are not those of the layer\n", layer->name);
    return 2;
  }
  uint8_t *row = room((size_t)halut_columns(layer)), *own_codes = room((size_t)books);
  int32_t *own_sums = room(sizeof(int32_t) * (size_t)layer->outputs);

  for (long n = 0; n < rows; n++) {
    long sample = n / pixels, pixel = n % pixels;
    const uint8_t *from = input.bytes + sample * map;
    halut_gather(layer, from, (int)(pixel / width), (int)(pixel % width), row);
    halut_codes(layer, row, own_codes);
    for (int book = 0; book < books; book++)
      compare("code", n, book, own_codes[book], codes.bytes[n * books + book]);
    halut_sums(layer, own_codes, own_sums);
    for (int m = 0; m < layer->outputs; m++) {
      compare("sum", n, m, own_sums[m], little_endian(sums.bytes + 4 * (n * layer->outputs + m)));
      long at = (sample * layer->outputs + m) * pixels + pixel;
      uint8_t branch = residual.bytes != NULL ? residual.bytes[at] : 0;
      compare("byte", n, m, halut_byte(layer, m, own_sums[m], branch), output.bytes[at]);
    }
  }
  printf("%s: %ld rows, 0 mismatches\n", layer->name, rows);
  free(row), free(own_codes), free(own_sums);
  free(input.bytes), free(codes.bytes), free(sums.bytes), free(output.bytes), free(residual.bytes);
  return 0;
}
