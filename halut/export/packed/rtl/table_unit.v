// One group of a layer by look-up tables with hash trees: a row of bytes in, M sums and bytes out.
//
// A codebook takes log2 K cycles, one compare each, and one cycle in which all M columns add an
// entry; then the columns are requantized, one a cycle. FORMAT.md states the arithmetic.
// Memories are written through one port; K is a power of two.
`default_nettype none

module table_unit #(
    parameter C = 1,            // codebooks
    parameter K = 16,           // leaves of a tree
    parameter M = 1,            // outputs
    parameter COLUMNS = 1,      // bytes of a row
    parameter TABLE_WIDTH = 8,  // bits of an entry
    parameter ACC = 32          // bits of a sum
) (
    input  wire               clk,
    input  wire               reset,
    // Memories: 0 row, 1 split dims at c * log2 K + level, 2 thresholds at c * K + node,
    // 3 tables at c * K + k of `column`, 4 multipliers, 5 biases, 6 residual bytes.
    input  wire               write,
    input  wire        [ 2:0] memory,
    input  wire        [31:0] column,
    input  wire        [31:0] address,
    input  wire        [31:0] data,
    // Numbers of the layer.
    input  wire signed [31:0] residual_multiplier,
    input  wire        [ 4:0] shift,
    input  wire        [ 7:0] low,
    // A row: begins with `start`; every code, then every output, is valid for one cycle.
    input  wire               start,
    output reg                code_valid,
    output reg         [31:0] code_index,
    output reg         [ 7:0] code,
    output reg                output_valid,
    output reg         [31:0] output_index,
    output reg signed  [31:0] output_sum,
    output reg         [ 7:0] output_byte,
    output reg                done
);
  localparam DEPTH = $clog2(K);
  localparam [2:0] ROW = 0, DIMS = 1, THRESHOLDS = 2, TABLE = 3, MULTIPLIER = 4, BIAS = 5,
                   RESIDUAL = 6;
  localparam [1:0] IDLE = 0, WALK = 1, ADD = 2, ANSWER = 3;

  reg [7:0] row[0:COLUMNS-1];
  reg [15:0] dims[0:C*DEPTH-1];
  reg [7:0] thresholds[0:C*K-1];
  reg signed [15:0] multipliers[0:M-1];
  reg signed [31:0] biases[0:M-1];
  reg [7:0] residuals[0:M-1];

  always @(posedge clk) begin
    if (write) begin
      case (memory)
        ROW: row[address] <= data[7:0];
        DIMS: dims[address] <= data[15:0];
        THRESHOLDS: thresholds[address] <= data[7:0];
        MULTIPLIER: multipliers[address] <= data[15:0];
        BIAS: biases[address] <= data;
        RESIDUAL: residuals[address] <= data[7:0];
        default: ;
      endcase
    end
  end

  reg [1:0] state;
  reg [31:0] book;    // the codebook at work
  reg [31:0] level;   // of its tree
  reg [7:0] path;     // the bits of the code so far
  reg [31:0] answered;

  // -- encode: one input and one threshold of a level ---------------------------------------------
  wire [31:0] node = (32'd1 << level) - 1 + {24'd0, path};
  wire right = row[dims[book*DEPTH+level]] > thresholds[book*K+node];

  // -- look up and add: a memory and an accumulator for every output ------------------------------
  wire [M*ACC-1:0] sums;
  wire [31:0] entry = book * K + {24'd0, path};
  genvar m;
  generate
    for (m = 0; m < M; m = m + 1) begin : output_column
      reg signed [TABLE_WIDTH-1:0] entries[0:C*K-1];
      reg signed [ACC-1:0] sum;
      assign sums[m*ACC+:ACC] = sum;
      always @(posedge clk) begin
        if (write && memory == TABLE && column == m) entries[address] <= data[TABLE_WIDTH-1:0];
        if (start) sum <= 0;
        else if (state == ADD) sum <= sum + entries[entry];
      end
    end
  endgenerate

  // -- requantize: multiply, add, shift, clamp ----------------------------------------------------
  wire signed [ACC-1:0] sum_at = sums[answered*ACC+:ACC];
  wire signed [47:0] scaled = sum_at * multipliers[answered];
  wire signed [47:0] added = $signed({1'b0, residuals[answered]}) * residual_multiplier;
  wire signed [47:0] offset = biases[answered];
  wire signed [47:0] total = scaled + added + offset;
  wire signed [47:0] shifted = total >>> shift;
  wire signed [47:0] lowest = {40'd0, low};
  wire [7:0] clamped = shifted < lowest ? low : shifted > 255 ? 8'd255 : shifted[7:0];

  always @(posedge clk) begin
    code_valid <= 0;
    output_valid <= 0;
    done <= 0;
    if (reset) state <= IDLE;
    else
      case (state)
        IDLE:
        if (start) begin
          book <= 0;
          level <= 0;
          path <= 0;
          answered <= 0;
          state <= WALK;
        end
        WALK: begin
          path <= {path[6:0], right};
          level <= level + 1;
          if (level == DEPTH - 1) state <= ADD;
        end
        ADD: begin
          code_valid <= 1;
          code_index <= book;
          code <= path;
          book <= book + 1;
          level <= 0;
          path <= 0;
          state <= book == C - 1 ? ANSWER : WALK;
        end
        ANSWER: begin
          output_valid <= 1;
          output_index <= answered;
          output_sum <= sum_at;
          output_byte <= clamped;
          answered <= answered + 1;
          if (answered == M - 1) begin
            done <= 1;
            state <= IDLE;
          end
        end
      endcase
  end
endmodule
