package rollout

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Bounds are the numbers that a rollout of some replicas keeps between.
type Bounds struct {
	Replicas int32
	// Surge is how many pods there may be above Replicas.
	Surge int32
	// Unavailable is how many may be missing, at most Replicas.
	Unavailable int32
}

// Floor is the number of available pods that no action goes below.
func (b Bounds) Floor() int32 { return b.Replicas - b.Unavailable }

// Ceiling is the number of wanted pods, over all sets, that no action exceeds.
func (b Bounds) Ceiling() int32 { return b.Replicas + b.Surge }

// BoundsOf reads them from a deployment. Without values the defaults hold, 25 %
// each. Recreate knows neither surge nor unavailability.
func BoundsOf(d *appsv1.Deployment) (Bounds, error) {
	b := Bounds{Replicas: replicas(d.Spec.Replicas)}
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return b, nil
	}
	var surge, unavailable *intstr.IntOrString
	if r := d.Spec.Strategy.RollingUpdate; r != nil {
		surge, unavailable = r.MaxSurge, r.MaxUnavailable
	}
	s, u, err := Resolve(surge, unavailable, b.Replicas)
	if err != nil {
		return b, err
	}
	b.Surge, b.Unavailable = s, min(u, b.Replicas)
	return b, nil
}

// Resolve makes numbers of maxSurge and maxUnavailable: percentages of surge are
// rounded up, those of unavailability down. When both come to nothing, which is
// a matter of rounding since validation refuses 0 and 0, one pod may be missing:
// else nothing could ever move.
func Resolve(maxSurge, maxUnavailable *intstr.IntOrString, replicas int32) (surge, unavailable int32, err error) {
	if surge, err = Share(maxSurge, replicas, math.Ceil); err != nil {
		return 0, 0, fmt.Errorf("maxSurge: %w", err)
	}
	if unavailable, err = Share(maxUnavailable, replicas, math.Floor); err != nil {
		return 0, 0, fmt.Errorf("maxUnavailable: %w", err)
	}
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, unavailable, nil
}

// Share is a number, or a percentage of n rounded by round. Nil is 25 %.
func Share(v *intstr.IntOrString, n int32, round func(float64) float64) (int32, error) {
	percent := 25
	switch {
	case v == nil:
	case v.Type == intstr.Int:
		if v.IntVal < 0 {
			return 0, fmt.Errorf("%d is negative", v.IntVal)
		}
		return v.IntVal, nil
	default:
		digits, ok := strings.CutSuffix(v.StrVal, "%")
		p, err := strconv.Atoi(digits)
		if !ok || err != nil || p < 0 {
			return 0, fmt.Errorf("%q is neither a number nor a percentage", v.StrVal)
		}
		percent = p
	}
	// Both factors are whole, so the product is exact.
	return int32(min(round(float64(n)*float64(percent)/100), math.MaxInt32)), nil
}

// replicas is what a missing number means: one.
func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}
