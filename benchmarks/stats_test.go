package main

import (
	"math"
	"testing"
)

func TestQuantile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i) // descending: sorting is the function's task
	}
	tests := []struct {
		name   string
		values []float64
		q      float64
		want   float64
	}{
		{"p10 of 1..100", hundred, 0.10, 10},
		{"p90 of 1..100", hundred, 0.90, 90},
		{"p99 of 1..100", hundred, 0.99, 99},
		{"p0 is the minimum", hundred, 0, 1},
		{"p100 is the maximum", hundred, 1, 100},
		{"one value", []float64{7}, 0.99, 7},
		{"p99 of few is the maximum", []float64{3, 1, 2}, 0.99, 3},
		{"p10 of few is the minimum", []float64{3, 1, 2}, 0.10, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := quantile(tt.values, tt.q); got != tt.want {
				t.Errorf("quantile(%v) = %v, want %v", tt.q, got, tt.want)
			}
		})
	}
	if hundred[0] != 100 {
		t.Error("quantile sorted its argument in place: pairs of samples would be torn apart")
	}
	if got := quantile(nil, 0.5); !math.IsNaN(got) {
		t.Errorf("quantile of nothing = %v, want NaN", got)
	}
}

func TestMedian(t *testing.T) {
	tests := []struct {
		values []float64
		want   float64
	}{
		{[]float64{5}, 5},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
		{[]float64{1, 1, 1000}, 1},
	}
	for _, tt := range tests {
		if got := median(tt.values); got != tt.want {
			t.Errorf("median(%v) = %v, want %v", tt.values, got, tt.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing = %v, want NaN", got)
	}
}

func TestPairedMedian(t *testing.T) {
	// A drifting machine: the pair differs by 1 in every round, whatever the level.
	slow, fast := []float64{11, 101, 51, 31}, []float64{10, 100, 50, 30}
	if got := pairedMedian(slow, fast); got != 1 {
		t.Errorf("pairedMedian = %v, want 1", got)
	}
	if got := pairedMedian(fast, slow); got != -1 {
		t.Errorf("pairedMedian = %v, want -1", got)
	}
	if got := pairedMedian([]float64{5, 99}, []float64{3}); got != 2 {
		t.Errorf("pairedMedian with a missing partner = %v, want 2", got)
	}
}
