package main

import (
	"math"
	"slices"
)

// quantile returns the value of rank q (0 to 1) by the nearest-rank method: always one
// of the values, never an interpolation. NaN without values.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// median is the middle value, or the mean of the middle two. NaN without values.
func median(values []float64) float64 {
	n := len(values)
	if n == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// pairedMedian is the median of a[i]-b[i]. Both were measured in the same round, so what
// the machine did meanwhile cancels out. Surplus values of the longer side are ignored.
func pairedMedian(a, b []float64) float64 {
	differences := make([]float64, min(len(a), len(b)))
	for i := range differences {
		differences[i] = a[i] - b[i]
	}
	return median(differences)
}
