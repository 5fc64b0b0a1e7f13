// What a client made for Go says; the base URL is the one of the document.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"time"

	flowclient "flowclient"
)

func must[T any](value T, _ *http.Response, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	keys := map[string]flowclient.APIKey{"header": {Key: os.Getenv("KEY")}}
	ctx := context.WithValue(context.Background(), flowclient.ContextAPIKeys, keys)
	client := flowclient.NewAPIClient(flowclient.NewConfiguration())
	options, account := client.OptionsAPI, client.AccountAPI
	at := time.Date(2026, 3, 6, 21, 18, 0, 0, time.UTC)
	line := must(options.FlowOptionsCumulative(ctx, "SPY").Minutes(30).At(at).Execute())
	recent := must(options.FlowOptionsRecent(ctx, "SPY").Limit(1).At(at).Execute())
	board := must(options.FlowOptionsLeaderboard(ctx).Right("C").At(at).Execute())
	nobody := must(options.FlowOptionsCumulative(ctx, "ES=F").Execute())
	me, symbols := must(account.Account(ctx).Execute()), must(account.Symbols(ctx).Execute())
	_, refused, _ := options.FlowOptionsCumulative(ctx, "SPY").Expiry("soon").Execute()
	told, _ := json.Marshal(map[string]any{
		"cumulative": line.Points[len(line.Points)-1].Cumulative,
		"instrument": recent.Trades[0].InstrumentId,
		"buyer":      board.Buyers[0].Symbol,
		"nobody":     nobody.Count,
		"email":      me.Email.Get(),
		"symbols":    symbols.Symbols,
		"refused":    refused.StatusCode,
	})
	fmt.Println(string(told))
}
