/* Layers by look-up tables in integers, C99: codes, sums and bytes of one row. FORMAT.md states the
   arithmetic; the layers' own headers hold the numbers. */
#ifndef HALUT_TABLES_H
#define HALUT_TABLES_H

#include <stddef.h>
#include <stdint.h>

typedef enum { HALUT_TREE, HALUT_L2, HALUT_L1, HALUT_CHEBYSHEV } halut_encoder;

typedef struct {
  const char *name;
  halut_encoder encoder;
  int groups, codebooks, K, outputs; /* codebooks of a group; outputs of all groups */
  int channels, height, width;       /* what the layer reads; rows are maps of one pixel */
  int kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x;
  int pad_left, pad_right, pad_top, pad_bottom;
  uint8_t padding_code;
  int table_bits;       /* 8, or 4: two entries a byte, the first in the low half */
  const uint8_t *table; /* [outputs][codebooks][K], two's complement */
  const uint16_t *split_dims;      /* trees: [groups * codebooks][log2 K] */
  const uint8_t *thresholds;       /* trees: [groups * codebooks][K - 1] */
  const uint8_t *prototypes;       /* nearest: codebook after codebook, [K][width] */
  const uint16_t *starts, *widths; /* nearest: [groups * codebooks] */
  const int16_t *multiplier;       /* [outputs] */
  const int32_t *bias;             /* [outputs] */
  int shift;
  uint8_t low;
  int32_t residual_multiplier;
} halut_layer;

/* Bytes of a row. */
static inline int halut_columns(const halut_layer *layer) {
  return layer->channels * layer->kernel_height * layer->kernel_width;
}

static inline int halut_out_height(const halut_layer *layer) {
  int reach = layer->dilation_y * (layer->kernel_height - 1) + 1;
  return (layer->height + layer->pad_top + layer->pad_bottom - reach) / layer->stride_y + 1;
}

static inline int halut_out_width(const halut_layer *layer) {
  int reach = layer->dilation_x * (layer->kernel_width - 1) + 1;
  return (layer->width + layer->pad_left + layer->pad_right - reach) / layer->stride_x + 1;
}

/* The row of the output pixel (y, x) of a map [channels][height][width]: channel-major im2col. */
static inline void halut_gather(const halut_layer *layer, const uint8_t *map, int y, int x,
                                uint8_t *row) {
  for (int channel = 0; channel < layer->channels; channel++)
    for (int i = 0; i < layer->kernel_height; i++)
      for (int j = 0; j < layer->kernel_width; j++) {
        int from_y = y * layer->stride_y + i * layer->dilation_y - layer->pad_top;
        int from_x = x * layer->stride_x + j * layer->dilation_x - layer->pad_left;
        int inside =
            from_y >= 0 && from_y < layer->height && from_x >= 0 && from_x < layer->width;
        ptrdiff_t at = ((ptrdiff_t)channel * layer->height + from_y) * layer->width + from_x;
        *row++ = inside ? map[at] : layer->padding_code;
      }
}

static inline uint8_t halut_tree_code(const halut_layer *layer, const uint8_t *row, int book) {
  int code = 0, node = 0, level = 0, depth = 0;
  while (1 << depth < layer->K) depth++;
  for (; level < depth; level++) {
    uint8_t input = row[layer->split_dims[book * depth + level]];
    int right = input > layer->thresholds[(ptrdiff_t)book * (layer->K - 1) + node];
    code = 2 * code + right;
    node = 2 * node + 1 + right;
  }
  return (uint8_t)code;
}

/* The first of the nearest prototypes. */
static inline uint8_t halut_nearest_code(const halut_layer *layer, const uint8_t *input,
                                         const uint8_t *prototypes, int width) {
  int best = 0;
  int64_t least = INT64_MAX;
  for (int k = 0; k < layer->K; k++) {
    int64_t distance = 0;
    for (int v = 0; v < width; v++) {
      int64_t far = (int64_t)input[v] - *prototypes++;
      if (far < 0) far = -far;
      if (layer->encoder == HALUT_CHEBYSHEV)
        distance = far > distance ? far : distance;
      else
        distance += layer->encoder == HALUT_L2 ? far * far : far;
    }
    if (distance < least) {
      least = distance;
      best = k;
    }
  }
  return (uint8_t)best;
}

/* codes [groups * codebooks] of a row. */
static inline void halut_codes(const halut_layer *layer, const uint8_t *row, uint8_t *codes) {
  const uint8_t *prototypes = layer->prototypes;
  for (int book = 0; book < layer->groups * layer->codebooks; book++) {
    if (layer->encoder == HALUT_TREE) {
      codes[book] = halut_tree_code(layer, row, book);
      continue;
    }
    int width = layer->widths[book];
    codes[book] = halut_nearest_code(layer, row + layer->starts[book], prototypes, width);
    prototypes += (ptrdiff_t)layer->K * width;
  }
}

static inline int halut_entry(const halut_layer *layer, ptrdiff_t at) {
  if (layer->table_bits == 8) return (int8_t)layer->table[at];
  int half = layer->table[at / 2] >> (at % 2 ? 4 : 0) & 15;
  return half < 8 ? half : half - 16;
}

/* sums [outputs] of a row's codes. */
static inline void halut_sums(const halut_layer *layer, const uint8_t *codes, int32_t *sums) {
  int each = layer->outputs / layer->groups;
  for (int m = 0; m < layer->outputs; m++) {
    const uint8_t *own = codes + m / each * layer->codebooks;
    sums[m] = 0;
    for (int c = 0; c < layer->codebooks; c++)
      sums[m] += halut_entry(layer, ((ptrdiff_t)m * layer->codebooks + c) * layer->K + own[c]);
  }
}

/* floor(total / 2^shift), whatever the compiler does to negative numbers. */
static inline int64_t halut_shift(int64_t total, int shift) {
  return total >= 0 ? total >> shift : -((-total + ((int64_t)1 << shift) - 1) >> shift);
}

/* The byte of output m; residual is the branch's byte, 0 where there is none. */
static inline uint8_t halut_byte(const halut_layer *layer, int m, int32_t sum, uint8_t residual) {
  int64_t total = (int64_t)sum * layer->multiplier[m] + layer->bias[m] +
                  (int64_t)residual * layer->residual_multiplier;
  int64_t y = halut_shift(total, layer->shift);
  return (uint8_t)(y < layer->low ? layer->low : y > 255 ? 255 : y);
}

#endif
