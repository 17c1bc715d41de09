// Replays a layer's golden vectors on table_unit: every code, sum and byte of every row and group.
//
//   iverilog -g2005 -I rtl/LAYER -o sim rtl/table_unit.v rtl/table_unit_tb.v && vvp sim
//
// in the folder of the export; LAYER is a folder of rtl/, whose layer.vh names the hex images.
// Prints "0 mismatches" or the first one.
`default_nettype none
`include "layer.vh"

module table_unit_tb;
  localparam DEPTH = $clog2(`K);
  localparam OUTPUTS = `GROUPS * `M;
  localparam PIXELS = `OUT_HEIGHT * `OUT_WIDTH;
  localparam ROWS = `SAMPLES * PIXELS;
  localparam ENTRIES = `C * `K;
  localparam signed [31:0] RESIDUAL_MULTIPLIER = `RESIDUAL_MULTIPLIER;
  localparam [4:0] SHIFT = `SHIFT;
  localparam [7:0] LOW = `LOW;

  reg [7:0] map[0:`SAMPLES*`CHANNELS*`HEIGHT*`WIDTH-1];
  reg [7:0] branch[0:ROWS*OUTPUTS-1];
  reg [15:0] dims[0:`GROUPS*`C*DEPTH-1];
  reg [7:0] thresholds[0:`GROUPS*ENTRIES-1];
  reg [`TABLE_WIDTH-1:0] table_entries[0:OUTPUTS*ENTRIES-1];
  reg [15:0] multipliers[0:OUTPUTS-1];
  reg [31:0] biases[0:OUTPUTS-1];
  reg [7:0] codes[0:ROWS*`GROUPS*`C-1];
  reg [31:0] sums[0:ROWS*OUTPUTS-1];
  reg [7:0] answers[0:ROWS*OUTPUTS-1];

  reg clk = 0, reset = 1, write = 0, start = 0;
  reg [2:0] memory = 0;
  reg [31:0] column = 0, address = 0, data = 0;
  wire code_valid, output_valid, done;
  wire [31:0] code_index, output_index, output_sum;
  wire [7:0] code, output_byte;
  integer group, sample, y, x, channel, i, j, at, m, n, compared;

  table_unit #(
      .C(`C),
      .K(`K),
      .M(`M),
      .COLUMNS(`COLUMNS),
      .TABLE_WIDTH(`TABLE_WIDTH),
      .ACC(`ACC)
  ) unit (
      .clk(clk),
      .reset(reset),
      .write(write),
      .memory(memory),
      .column(column),
      .address(address),
      .data(data),
      .residual_multiplier(RESIDUAL_MULTIPLIER),
      .shift(SHIFT),
      .low(LOW),
      .start(start),
      .code_valid(code_valid),
      .code_index(code_index),
      .code(code),
      .output_valid(output_valid),
      .output_index(output_index),
      .output_sum(output_sum),
      .output_byte(output_byte),
      .done(done)
  );

  always #5 clk = ~clk;

  task put(input [2:0] which, input [31:0] at_column, input [31:0] at_address, input [31:0] value);
    begin
      @(negedge clk);
      write = 1;
      memory = which;
      column = at_column;
      address = at_address;
      data = value;
    end
  endtask

  task compare(input [31:0] ours, input [31:0] golden, input [8*8-1:0] what, input integer index);
    begin
      compared = compared + 1;
      if (ours !== golden) begin
        $display("%0s: group %0d, row %0d, %0s %0d is %0d instead of %0d", `LAYER, group, n, what,
                 index, $signed(ours), $signed(golden));
        $finish;
      end
    end
  endtask

  // Where output m of the row at (sample, y, x) lies in a map.
  function integer place(input integer index);
    place = ((sample * OUTPUTS + group * `M + index) * `OUT_HEIGHT + y) * `OUT_WIDTH + x;
  endfunction

  task load_group;
    begin
      for (i = 0; i < `C * DEPTH; i = i + 1) put(1, 0, i, dims[group*`C*DEPTH+i]);
      for (i = 0; i < ENTRIES; i = i + 1) put(2, 0, i, thresholds[group*ENTRIES+i]);
      for (m = 0; m < `M; m = m + 1) begin
        at = group * `M + m;
        for (i = 0; i < ENTRIES; i = i + 1) put(3, m, i, table_entries[at*ENTRIES+i]);
        put(4, 0, m, multipliers[at]);
        put(5, 0, m, biases[at]);
        put(6, 0, m, 0);
      end
    end
  endtask

  task load_row;
    integer from_y, from_x;
    begin
      at = 0;
      for (channel = 0; channel < `CHANNELS; channel = channel + 1)
        for (i = 0; i < `KERNEL_HEIGHT; i = i + 1)
          for (j = 0; j < `KERNEL_WIDTH; j = j + 1) begin
            from_y = y * `STRIDE_Y + i * `DILATION_Y - `PAD_TOP;
            from_x = x * `STRIDE_X + j * `DILATION_X - `PAD_LEFT;
            if (from_y < 0 || from_y >= `HEIGHT || from_x < 0 || from_x >= `WIDTH)
              put(0, 0, at, `PADDING_CODE);
            else
              put(0, 0, at, map[((sample*`CHANNELS+channel)*`HEIGHT+from_y)*`WIDTH+from_x]);
            at = at + 1;
          end
      if (`RESIDUAL) for (m = 0; m < `M; m = m + 1) put(6, 0, m, branch[place(m)]);
      @(negedge clk) write = 0;
    end
  endtask

  task run_row;
    reg running;
    begin
      start = 1;
      @(negedge clk) start = 0;
      running = 1;
      while (running) begin
        @(negedge clk);
        if (code_valid)
          compare(code, codes[(n*`GROUPS+group)*`C+code_index], "code", code_index);
        if (output_valid) begin
          compare(output_sum, sums[n*OUTPUTS+group*`M+output_index], "sum", output_index);
          compare(output_byte, answers[place(output_index)], "byte", output_index);
        end
        if (done) running = 0;
      end
    end
  endtask

  initial begin
    $readmemh({`HEX, "input.hex"}, map);
    if (`RESIDUAL) $readmemh({`HEX, "residual.hex"}, branch);
    $readmemh({`HEX, "split_dims.hex"}, dims);
    $readmemh({`HEX, "thresholds.hex"}, thresholds);
    $readmemh({`HEX, "table.hex"}, table_entries);
    $readmemh({`HEX, "multiplier.hex"}, multipliers);
    $readmemh({`HEX, "bias.hex"}, biases);
    $readmemh({`HEX, "codes.hex"}, codes);
    $readmemh({`HEX, "sums.hex"}, sums);
    $readmemh({`HEX, "output.hex"}, answers);
    compared = 0;
    @(negedge clk) reset = 0;
    for (group = 0; group < `GROUPS; group = group + 1) begin
      load_group;
      for (n = 0; n < ROWS; n = n + 1) begin
        sample = n / PIXELS;
        y = n % PIXELS / `OUT_WIDTH;
        x = n % `OUT_WIDTH;
        load_row;
        run_row;
      end
    end
    $display("%0s: %0d integers, 0 mismatches", `LAYER, compared);
    $finish;
  end
endmodule
