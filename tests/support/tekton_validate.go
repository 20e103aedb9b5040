// Checks Tasks and TaskRuns as Tekton's webhook does: defaults first, then what is not allowed. Reads them from standard
// input, as JSON, one after the other.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "github.com/tektoncd/pipeline/pkg/apis/pipeline/v1"
)

func main() {
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	for {
		task := &v1.Task{}
		if err := decoder.Decode(task); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		ctx := context.Background()
		task.SetDefaults(ctx)
		if err := task.Validate(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
