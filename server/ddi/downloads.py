"""Artifacts over DDI: only to a device that was offered them."""

from dataclasses import dataclass

from aiohttp import web

from slipstream.server.blobs import Files
from slipstream.server.catalog import ArtifactOffer, CatalogReader, Release
from slipstream.server.ddi.answers import describe_artifact
from slipstream.server.ddi.visit import Reception, Visit
from slipstream.server.wire import answer_tagged, refusal


@dataclass(frozen=True, slots=True)
class Downloads:
    """Lists and sends."""

    catalog: CatalogReader
    files: Files
    reception: Reception

    async def list_all(self, request: web.Request) -> web.Response:
        visit = await self.reception.enter(request)
        release = await self._module(visit)
        listed = [describe_artifact(visit.place, release, one) for one in release.artifacts]
        return answer_tagged(request, listed)

    async def send(self, request: web.Request) -> web.StreamResponse:
        visit = await self.reception.enter(request)
        release = await self._module(visit)
        name = request.match_info["file"]
        found = _named(release, name)
        if found is not None:
            return await self.files.send_artifact(
                request,
                found.sha256,
                etag=found.sha1,
                size=found.size_bytes,
                file_name=found.file_name,
            )
        found = _named(release, name.removesuffix(".MD5SUM"))
        if found is None:
            raise refusal(web.HTTPNotFound, "no such artifact")
        return web.Response(
            text=f"{found.md5}  {found.file_name}",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    async def _module(self, visit: Visit) -> Release:
        """The release of the path; 404 unless it was offered to this very device."""
        text = visit.request.match_info["module"]
        offered = {one.release for one in visit.controller.attempts}
        for one in (await self.catalog.read()).releases:
            if str(one.counter) == text and one.product == visit.controller.device.product:
                if one.release in offered:
                    return one
                break
        raise refusal(web.HTTPNotFound, "no such module in an action of this device")


def _named(release: Release, name: str) -> ArtifactOffer | None:
    return next((one for one in release.artifacts if one.file_name == name), None)
