// Resizing as Pillow does it, bit by bit: libImaging/Resample.c, with eight bits per channel.
//
// Each output is a weighted mean of the inputs around it, first across, then down. Weights are computed in double
// precision, normalised to a sum of one, and rounded to 22 bits; the rows between the two passes are rounded to 8 bits.
// Only the pixels inside the crop are computed. Compiled without contraction (--fmad=false), otherwise weights differ.

struct Job {                    // one image; the same layout as `JOB` in gpu_resize.py
    unsigned long long source;  // uint8 [height][pitch], of which 3 * width bytes are a row
    unsigned long long rows;    // uint8 [row_count][crop_width][3]: between the passes
    unsigned long long across;  // int [crop_width][taps_across]: weights
    unsigned long long down;    // int [crop_height][taps_down]
    unsigned long long output;  // uint8 [crop_height][crop_width][3]
    double support;             // of the filter, in pixels
    int pitch, width, height;   // of the source
    int wide, high;             // that it is resized to
    int left, top;              // of the crop in that
    int crop_width, crop_height;
    int taps_across, taps_down;
    int first_row, row_count;   // of the source, that the crop is made from
    int filter;                 // 1 bilinear, 2 bicubic, 3 lanczos
};

#define PRECISION_BITS (32 - 8 - 2)
#define PI 3.14159265358979323846

__device__ static double sinc(double x) {
    return x == 0.0 ? 1.0 : sin(x * PI) / (x * PI);
}

__device__ static double weight(int filter, double x) {
    x = x < 0.0 ? -x : x;
    if (filter == 1) return x < 1.0 ? 1.0 - x : 0.0;
    if (filter == 2) {
        const double a = -0.5;
        if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
        if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
        return 0.0;
    }
    return x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0;
}

// The inputs that output `index` is made of: [first, first + count).
struct Window {
    double centre, step;
    int first, count;
};

__device__ static Window window_of(int index, int from, int to, double support) {
    Window window;
    const double scale = (double)from / to;
    const double stretch = scale < 1.0 ? 1.0 : scale;
    window.centre = (index + 0.5) * scale;
    window.step = 1.0 / stretch;
    window.first = (int)(window.centre - support * stretch + 0.5);
    if (window.first < 0) window.first = 0;
    int end = (int)(window.centre + support * stretch + 0.5);
    if (end > from) end = from;
    window.count = end - window.first;
    return window;
}

__device__ static void write_weights(int *weights, int taps, int index, int from, int to, int filter, double support) {
    const Window window = window_of(index, from, to, support);
    double sum = 0.0;
    for (int tap = 0; tap < window.count; tap++)
        sum += weight(filter, (tap + window.first - window.centre + 0.5) * window.step);
    for (int tap = 0; tap < taps; tap++) {
        double share = 0.0;
        if (tap < window.count) {
            share = weight(filter, (tap + window.first - window.centre + 0.5) * window.step);
            if (sum != 0.0) share /= sum;
        }
        weights[tap] = (int)((share < 0 ? -0.5 : 0.5) + share * (1 << PRECISION_BITS));
    }
}

__device__ static unsigned char rounded(int sum) {
    const int value = sum >> PRECISION_BITS;
    return value < 0 ? 0 : value > 255 ? 255 : value;
}

// Grids are (blocks an image, images); each thread takes one element after the other.
#define FOR_EACH(element, count) \
    for (long long element = (long long)blockIdx.x * blockDim.x + threadIdx.x; element < (count); \
         element += (long long)gridDim.x * blockDim.x)

extern "C" __global__ void weigh(const Job *jobs) {
    const Job job = jobs[blockIdx.y];
    FOR_EACH(index, job.crop_width + job.crop_height) {
        const int x = (int)index, y = x - job.crop_width;
        if (y < 0)
            write_weights((int *)job.across + (long long)x * job.taps_across, job.taps_across, job.left + x, job.width,
                          job.wide, job.filter, job.support);
        else
            write_weights((int *)job.down + (long long)y * job.taps_down, job.taps_down, job.top + y, job.height,
                          job.high, job.filter, job.support);
    }
}

extern "C" __global__ void resize_across(const Job *jobs) {
    const Job job = jobs[blockIdx.y];
    FOR_EACH(index, (long long)job.row_count * job.crop_width) {
        const int row = (int)(index / job.crop_width), x = (int)(index % job.crop_width);
        const Window window = window_of(job.left + x, job.width, job.wide, job.support);
        const int *weights = (const int *)job.across + (long long)x * job.taps_across;
        const unsigned char *pixel =
            (const unsigned char *)job.source + (long long)(job.first_row + row) * job.pitch + window.first * 3;
        int red = 1 << (PRECISION_BITS - 1), green = red, blue = red;
        for (int tap = 0; tap < window.count; tap++, pixel += 3) {
            red += pixel[0] * weights[tap];
            green += pixel[1] * weights[tap];
            blue += pixel[2] * weights[tap];
        }
        unsigned char *output = (unsigned char *)job.rows + index * 3;
        output[0] = rounded(red);
        output[1] = rounded(green);
        output[2] = rounded(blue);
    }
}

extern "C" __global__ void resize_down(const Job *jobs) {
    const Job job = jobs[blockIdx.y];
    const int stride = job.crop_width * 3;
    FOR_EACH(index, (long long)job.crop_height * stride) {
        const int y = (int)(index / stride), column = (int)(index % stride);
        const Window window = window_of(job.top + y, job.height, job.high, job.support);
        const int *weights = (const int *)job.down + (long long)y * job.taps_down;
        const unsigned char *value =
            (const unsigned char *)job.rows + (long long)(window.first - job.first_row) * stride + column;
        int sum = 1 << (PRECISION_BITS - 1);
        for (int tap = 0; tap < window.count; tap++, value += stride) sum += *value * weights[tap];
        ((unsigned char *)job.output)[index] = rounded(sum);
    }
}
